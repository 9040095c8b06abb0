"""Files in messages: where their bytes are, who may read them, their thumbnails, their deletion."""
