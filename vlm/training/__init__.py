"""Training: one loop for every task, the tokenizer's task, the model's task and their data."""
