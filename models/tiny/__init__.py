"""The tiny model: its data, tokenizer, training and evaluation. See README.md, the model card.

A test instrument and a first impression of AIOS, not an assistant. Importing
starts nothing; the commands are `python -m models.tiny.train` and
`python -m models.tiny.evaluate`.
"""
