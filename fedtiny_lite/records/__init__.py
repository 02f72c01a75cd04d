"""Results as JSON files: their form, what they ran on, expected bands, bundles."""
