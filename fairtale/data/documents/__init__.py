"""Read works from folders of texts, JSON lines and SQLite tables, and clean them."""
