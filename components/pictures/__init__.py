"""Images of clips: strips, sheets and animations."""
