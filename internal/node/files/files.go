// Package files makes directories and files with exactly the mode and owner that they are to have, whatever the process's
// umask is: the node runs with a tight one, and some of what it makes is for an app's users to read. It decides nothing.
package files

import (
	"io/fs"
	"os"
)

// Dir makes a directory, or takes the one that is there, and gives it a mode and an owner (user and group alike).
func Dir(path string, mode fs.FileMode, owner uint32) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := os.Chown(path, int(owner), int(owner)); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Write writes a file of root's with a mode.
func Write(path string, b []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
