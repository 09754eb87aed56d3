"""The sampler: a quasi-random start, then what a model of the space expects most of.

`candidates` says what may be suggested, `features` how an architecture looks to the model, `gaussian` is the model,
`improvement` what is expected of a candidate, and `proposer` ties them.
"""
