"""How results look: HTML pages, charts, console tables, descriptions in MLflow."""
