"""The embedding store: one vector per distinct string and encoder, in immutable shards.

    {cache}/embeddings/{encoder}/
        recipe.json                     what the encoder's key stands for
        shards/{sha256}.arrow           key: fixed_size_binary(16), embedding: fixed_size_list<float>[dim]
        {role}-{texts}.json             manifest of a collection: small, deterministic, written last
        {role}-{texts}.rows.arrow       its texts in file order: id, key, shard, row
        records.jsonl                   what each encode job did
        settings.json                   the settings of the latest job and where each came from
        work/                           texts that a running job encodes

`paths` names these files; `shards` is one file of vectors; `store` writes shards and looks keys up in them,
with `sorted_keys`; `collection` is a manifest with its table of rows; `vectors` reads a collection;
`compaction` merges and clears shards, `verification` checks them. `derived` makes vectors of stored ones,
`imported` brings vectors in from elsewhere, `export` writes a collection as one dense file.

A shard is written under a temporary name, flushed and renamed to the hash of its content, so a shard
that exists is whole. Nothing but `Store.write` makes shards, and nothing changes one. A shard may vanish
when it has been merged into a larger one (`compaction`): who misses it looks its keys up again.
"""
