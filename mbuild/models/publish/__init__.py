"""Models out to the Hub: which files a repository gets, its card, and the upload."""
