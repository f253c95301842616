"""The subcommand `trove-steps cache`: `contents` lists what lies in a cache, `usage` how much room it takes,
`verification` compares it with its hashes, `garbage` removes what no configuration reaches."""
