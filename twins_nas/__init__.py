"""twins_nas: architecture search and ablation for hierarchical vision transformers."""
