"""Read and write models in the formats that others use."""
