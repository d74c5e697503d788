"""What a trained encoder is worth on labelled data: probes of its embeddings, with confidence intervals."""
