"""What a run leaves for people: files, console output, HTML pages, leaderboards, audits."""
