"""Pure tensor functions: no config, no device moves, no logger.

==============  ====================================================================================================
``masked``      checks on entry; sums and means over counted tokens; whitening over all ranks
``logprobs``    log-probability and entropy of tokens from hidden states, a chunk of logits at a time
``advantages``  token rewards, GAE, rewards to go; baselines from groups; the penalty of long responses
``losses``      the clipped surrogate, value and reward-model losses
``preference``  losses of pairs, and of single responses with a label
``kl``          estimators of the divergence from the reference, and the bound for best-of-n
==============  ====================================================================================================

Dimensions: ``B`` sequences or pairs, ``R`` response tokens, ``V`` vocabulary, ``H`` hidden, ``G`` groups. An argument's
suffix is its shape. Log-probabilities and divergences are in nats. Masks are boolean and true on counted tokens. Means
are over the batch at hand; what makes them means over microbatches and ranks is the batch's weight.
"""
