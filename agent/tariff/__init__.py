"""Power price: what a kilowatt-hour costs at this minute."""
