"""Programs of the repository that are not part of the package: the documentation's generated parts and its site."""
