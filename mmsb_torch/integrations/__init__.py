"""Callbacks for others' training loops; each needs its library, and loads when it is imported.

lightning      MMSBCallback: epochs of a `lightning.Trainer`
huggingface    MMSBCallback: steps of a `transformers.Trainer`
"""
