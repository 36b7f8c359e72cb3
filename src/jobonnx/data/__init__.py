"""What comes with the package: job titles in four languages, and a small model trained on 22."""
