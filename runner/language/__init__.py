"""What people read, in their language: one table of texts in English and German."""
