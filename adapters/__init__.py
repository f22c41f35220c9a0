"""Style adapters: LoRA on the towers, thin over peft. Nothing outside this package imports peft."""
