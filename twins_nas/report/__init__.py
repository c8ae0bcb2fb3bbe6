"""What a search leaves behind for people: a table, a picture, a page and files."""
