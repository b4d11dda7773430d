"""What each page shows, gathered from the store into plain values. Nothing here decides anything or asks a clock."""
