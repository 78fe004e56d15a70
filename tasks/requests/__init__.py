"""From a file that is handed over to a request that is carried out, and the answers to its sender."""
