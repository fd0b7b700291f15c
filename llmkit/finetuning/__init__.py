"""From a general model to a specialist and to an assistant: adapters, frozen bases, instruction tuning."""
