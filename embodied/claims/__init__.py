"""Published claims: `index` reads them, `publish` adds one; nothing heavy is imported here."""
