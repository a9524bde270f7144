"""What is learned from and judged on: corpora, documents, the tokenizer, where text comes from."""
