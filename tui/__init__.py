"""The operators' terminal: shows what the store holds; no rule of the business lives here."""
