"""From texts to answers: tokens, windows, batches, the network, spans, and the columns of an answer."""
