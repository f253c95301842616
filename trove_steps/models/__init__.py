"""A model's folder; nothing heavy is imported, for the planner reads models too.

`location` says where it is, `source` is a model as the configuration names it. `folder` is how it is laid
out, `files` which of its files determine its vectors; `config` and `sentence_transformers_files` what
they say. `settings` are how it encodes, and `settings_resolution` which of configuration, files and
defaults decides.
"""
