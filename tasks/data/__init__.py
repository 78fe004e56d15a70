"""Pictures, packs and manifests, and their versions under git and DVC."""
