"""Exchange weights with other libraries: Hugging Face's GPT-2 folders, and CTranslate2."""
