"""What a report shows, against records whose every number is known."""
