// Package bypass goes around protections, one of each kind. Nothing builds it; the linter has to see each line that says what it wants.
package bypass

import (
	"crypto/aes"    // want "primitives"
	"crypto/cipher" // want "primitives"
	"crypto/md5"    // want "G501"
	"crypto/tls"
	"database/sql"
	"html/template"
	"math/rand"
	"net/http"
	"os"
	"os/exec" // want "processes"

	"golang.org/x/crypto/ssh"
)

// Unverified believes whoever answers.
func Unverified() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}} // want "G402"
}

// Old speaks what is broken.
func Old() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS10} } // want "G402"

// AnyHost believes every SSH server.
func AnyHost() ssh.HostKeyCallback { return ssh.InsecureIgnoreHostKey() } // want "G106"

// Unescaped puts a stranger's text into a page.
func Unescaped(name string) template.HTML { return template.HTML(name) } // want "G203"

// Guessable makes a key that can be guessed.
func Guessable() int { return rand.Int() } // want "G404"

// Query puts a stranger's text into SQL. TestNoSQLFromText looks for it.
func Query(db *sql.DB) (*sql.Rows, error) {
	return db.Query("SELECT * FROM app WHERE name = '" + os.Args[1] + "'")
}

// Homemade is a cipher of one's own.
func Homemade(key, text []byte) ([]byte, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	sum := md5.Sum(text)
	out := make([]byte, len(text))
	cipher.NewCTR(b, sum[:]).XORKeyStream(out, text)
	return out, nil
}

// Shell hands a stranger's text to a shell.
func Shell(text string) error { return exec.Command("sh", "-c", text).Run() }

// Start starts a program past the one place.
func Start(path string) (*os.Process, error) {
	return os.StartProcess(path, nil, &os.ProcAttr{}) // want "os.StartProcess"
}
