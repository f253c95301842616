"""The configuration.

`reading` takes it from YAML files, `loading` checks it and fills in defaults. `schema` has the schema and its
defaults, `mistakes` says what it finds wrong, `checks` and `dataset_options` what no schema can say;
`yaml_keys` finds names that stand twice.
"""
