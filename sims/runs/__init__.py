"""A run: its configuration, its folder, one sitting from start to stop."""
