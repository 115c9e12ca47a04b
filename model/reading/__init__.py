"""From texts to answers: tokens, windows, batches, the network, spans and answer columns."""
