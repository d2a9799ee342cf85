"""HCAM agents: any observation in, a memory of vectors, a policy and a value out."""
