"""Merging low-rank adapters: exactly (FLoRA), or unit by unit (LoRA-LEGO)."""
