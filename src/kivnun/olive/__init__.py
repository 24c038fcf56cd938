"""Microsoft Olive's files and commands in Kivnun's words: what each key means here, or why it is refused."""
