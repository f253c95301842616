"""Encoding a collection: only strings that the store does not hold yet go through the model.

Rank 0 reads the files, names every text by its key, looks the keys up, and reads the files once more to put
the texts that have no vector into a work file. All ranks then claim portions of it, longest texts first,
encode them and add them to the store as shards, each a portion of about PORTION_SECONDS of work: that is
what a kill can lose. When all is done, rank 0 writes the rows table and the manifest.

`job` is what is to be encoded, `run` goes through the steps above, `reading` reads the files, `work` is the
work file, `portions` says which texts a rank encodes next, `claims` which job does, `loop` is the encoding
loop of a rank, and `record` what is known of it all afterwards. `step` is the command line around it.
"""
