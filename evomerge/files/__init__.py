"""Files: YAML read strictly, folders that appear whole or not at all, and what a full disk says."""
