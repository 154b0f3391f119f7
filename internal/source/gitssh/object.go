package gitssh

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// maxObject bounds the commit and the certificate; both are a few hundred bytes in life.
const maxObject = 1 << 20

// readCommit returns the certificate's bytes and what the commit says of itself.
func (st *store) readCommit(ctx context.Context, app bulwark.AppID, commit bulwark.Commit, cert string, env []string) (raw []byte, about commitInfo, err error) {
	if _, err := bulwark.ParseCommit(cert); err != nil {
		return nil, commitInfo{}, fmt.Errorf("gitssh: git names the certificate %q", cert)
	}
	out := &capped{most: 2*maxObject + 4096}
	c := st.cmd(app, env, "cat-file", "--batch")
	c.Stdin = strings.NewReader(string(commit) + "\n" + cert + "\n")
	c.Stdout = out
	if err := process.Run(ctx, c); err != nil {
		if out.over {
			err = bulwark.Fail(bulwark.KindTooLarge, "The commit's message or the push certificate is too long.", "", err)
		}
		return nil, commitInfo{}, err
	}
	in := bufio.NewReader(&out.b)
	kind, body, err := readObject(in)
	if err != nil {
		return nil, commitInfo{}, err
	}
	if kind != "commit" {
		return nil, commitInfo{}, bulwark.Invalid(fmt.Sprintf("A push deploys a commit, and %s is a %s.", commit.Short(), kind),
			"Push a branch: git push bulwark main")
	}
	about = parseCommitInfo(body)
	kind, raw, err = readObject(in)
	if err == nil && kind != "blob" {
		err = fmt.Errorf("gitssh: the certificate is a %s", kind)
	}
	return raw, about, err
}

// readObject reads one answer of "git cat-file --batch": "<id> <type> <size>\n", the bytes, "\n".
func readObject(in *bufio.Reader) (kind string, body []byte, err error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("gitssh: cat-file was cut: %w", err)
	}
	var id string
	var n int
	if _, err := fmt.Sscanf(line, "%40s %16s %d\n", &id, &kind, &n); err != nil || n < 0 || n > 2*maxObject {
		return "", nil, fmt.Errorf("gitssh: cat-file printed %q", line)
	}
	body = make([]byte, n+1)
	if _, err := io.ReadFull(in, body); err != nil {
		return "", nil, fmt.Errorf("gitssh: cat-file was cut: %w", err)
	}
	return kind, body[:n], nil
}

// commitInfo is what a commit says of itself; its author chose it freely, and nothing follows from it.
type commitInfo struct{ subject, author string }

func parseCommitInfo(b []byte) commitInfo {
	head, message, _ := bytes.Cut(b, []byte("\n\n"))
	var c commitInfo
	for line := range bytes.Lines(head) {
		if rest, ok := bytes.CutPrefix(line, []byte("author ")); ok {
			if end := bytes.LastIndexByte(rest, '>'); end >= 0 {
				rest = rest[:end+1]
			}
			c.author = oneLine(rest)
			break
		}
	}
	first, _, _ := bytes.Cut(bytes.TrimLeft(message, "\n"), []byte("\n"))
	c.subject = oneLine(first)
	return c
}

// oneLine is b as one line of at most 200 characters that a terminal or a page shows as it stands.
func oneLine(b []byte) string {
	var out strings.Builder
	count := 0
	for i := 0; i < len(b) && count < 200; {
		n := 0
		if b[i] != 0x1b && b[i] != '\t' {
			n = showable(b[i:])
		}
		if n == 0 {
			out.WriteByte(' ')
			n = 1
		} else {
			out.Write(b[i : i+n])
		}
		i += n
		count++
	}
	return strings.TrimSpace(out.String())
}

// capped takes up to most bytes and then fails, which ends the program that writes.
type capped struct {
	b    bytes.Buffer
	most int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if c.b.Len()+len(p) > c.most {
		c.over = true
		return 0, io.ErrShortBuffer
	}
	return c.b.Write(p)
}
