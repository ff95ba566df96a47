"""Load for a server of the OpenAI API, ours or another: sent over HTTP, timed token by token."""
