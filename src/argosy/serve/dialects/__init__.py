"""The protocols a server speaks, one module each with what it needs beside it."""
