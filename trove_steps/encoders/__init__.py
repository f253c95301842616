"""What encoders are made of.

`trove_steps.encoder` (the loop over batches) and `trove_steps.transformers_encoder` (the default class) stand
beside this package, because classes of the user's import them.

`model_loading`, `pooling` and `cpu_layers` are parts of the default class; `own_encoder` stands around a
class of the user's; `lengths` keeps what max_len cut off; `cross_encoder` scores pairs of texts.
"""
