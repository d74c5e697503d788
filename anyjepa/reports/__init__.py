"""The page a person looks at: one run as one HTML file that opens without a network."""
