"""What makes a worker start fast; nothing else knows how."""
