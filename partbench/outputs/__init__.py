"""What methods offer, one capability a module: promise, arrays, writer, reader, pictures."""
