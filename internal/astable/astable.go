// Package astable knows which network operator an address belongs to, by a table of autonomous systems that somebody else made.
//
// It promises that a look takes no memory and no system call, and that no text in such a table makes it take more than a bounded part
// of either. An attacker who owns the table decides whom "deny AS…" is about; who can write it is root already.
package astable

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Table is networks with their numbers. A nil one knows none.
type Table struct{ records []byte }

// A table is kept as a head and records, in the order of their addresses. Each says whose all addresses are from its own on, up to the next one's.
const (
	magic      = "bulwark networks 1\n\x00"
	recordSize = 16 + 4
	maxRecords = 8_000_000 // the whole internet has a million and a half
	maxLine    = 4096
)

// Of is whose an address is: 0 if that is not known.
func (t *Table) Of(a netip.Addr) bulwark.ASN {
	if t == nil || !a.IsValid() {
		return 0
	}
	key := a.As16() // of IPv4 the mapped one
	lo, hi := 0, len(t.records)/recordSize
	for lo < hi { // the first that begins behind it
		if mid := (lo + hi) / 2; bytes.Compare(t.records[mid*recordSize:mid*recordSize+16], key[:]) > 0 {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == 0 {
		return 0
	}
	return t.number(lo - 1)
}

// Has tells whether a number has networks in the table.
func (t *Table) Has(n bulwark.ASN) bool {
	if t == nil || n == 0 {
		return false
	}
	for i := range len(t.records) / recordSize {
		if t.number(i) == n {
			return true
		}
	}
	return false
}

func (t *Table) number(i int) bulwark.ASN {
	return bulwark.ASN(binary.BigEndian.Uint32(t.records[i*recordSize+16:]))
}

// Open maps a file of what Compile made; there is none, and no error, where there is no file. It stays as it is when the file is replaced.
func Open(path string) (*Table, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil //nolint:nilnil // none is a table that knows nobody
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size < int64(len(magic)) || (size-int64(len(magic)))%recordSize != 0 || size > int64(len(magic)+maxRecords*recordSize) {
		return nil, broken(path)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	if string(b[:len(magic)]) != magic {
		_ = unix.Munmap(b)
		return nil, broken(path)
	}
	return &Table{records: b[len(magic):]}, nil
}

func broken(path string) error {
	return bulwark.Fail(bulwark.KindInternal, fmt.Sprintf("The table of networks %s is damaged.", path), "Start the platform with bulwark up --as-table again.", nil)
}

// span is some network's addresses, both ends included.
type span struct {
	from, to netip.Addr // of 16 bytes
	bits     int        // how narrow it is: of networks within each other the narrowest counts
	of       bulwark.ASN
}

// Compile reads a table as it is published, and returns it as Open wants it. It takes lines with the first and the last address and the number ("1.0.0.0 1.0.0.255 13335 …", as iptoasn publishes them), with a network and the number
// ("1.0.0.0/24 13335", as BGP tools do), or with address, length and number (CAIDA's pfx2as), compressed by gzip or not.
func Compile(from io.Reader) ([]byte, error) {
	r := bufio.NewReaderSize(from, 64<<10)
	if head, _ := r.Peek(2); string(head) == "\x1f\x8b" {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, "The table of networks is not well compressed.", "", err)
		}
		r = bufio.NewReaderSize(z, 64<<10)
	}
	var all []span
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		s, ok := parse(strings.Fields(line))
		if !ok {
			return nil, bulwark.Invalid(fmt.Sprintf("Line %d of the table of networks is none.", n), "Lines are \"1.0.0.0 1.0.0.255 13335\" or \"1.0.0.0/24 13335\".")
		}
		if s.of == 0 {
			continue
		}
		if all = append(all, s); len(all) > maxRecords/4 {
			return nil, bulwark.Invalid("The table of networks has too many lines.", "")
		}
	}
	if err := lines.Err(); err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Line %d of the table of networks cannot be read.", n+1), "", err)
	}
	if len(all) == 0 {
		return nil, bulwark.Invalid("There are no networks in the table.", "")
	}
	return flatten(all), nil
}

func parse(fields []string) (s span, ok bool) {
	if len(fields) < 2 {
		return s, false
	}
	number := fields[1]
	if p, err := netip.ParsePrefix(fields[0]); err == nil {
		s = spanOf(p)
	} else if a, err := netip.ParseAddr(fields[0]); err == nil && len(fields) >= 3 && a.Zone() == "" {
		number = fields[2]
		if b, err := netip.ParseAddr(fields[1]); err == nil && b.Zone() == "" && b.BitLen() == a.BitLen() && !b.Less(a) {
			s = span{from: netip.AddrFrom16(a.As16()), to: netip.AddrFrom16(b.As16())}
			s.bits = narrowness(s.from, s.to)
		} else if bits, err := strconv.Atoi(fields[1]); err == nil && bits >= 0 && bits <= a.BitLen() {
			s = spanOf(netip.PrefixFrom(a, bits))
		} else {
			return s, false
		}
	} else {
		return s, false
	}
	// Where several announce a network it is the first one's: "64500_64501", "{64500,64501}".
	number, _, _ = strings.Cut(strings.TrimPrefix(number, "{"), "_")
	number, _, _ = strings.Cut(strings.TrimSuffix(number, "}"), ",")
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(number), "AS"), 10, 32)
	s.of = bulwark.ASN(n)
	return s, err == nil
}

func spanOf(p netip.Prefix) span {
	p = p.Masked()
	from := p.Addr().As16()
	to, bits := from, p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		to[i/8] |= 0x80 >> (i % 8)
	}
	return span{from: netip.AddrFrom16(from), to: netip.AddrFrom16(to), bits: bits}
}

// narrowness is how many bits the first and the last address have in common.
func narrowness(from, to netip.Addr) int {
	a, b := from.As16(), to.As16()
	for i := range 128 {
		if (a[i/8]^b[i/8])&(0x80>>(i%8)) != 0 {
			return i
		}
	}
	return 128
}

// flatten writes spans that may lie within each other as records that do not. Where two overlap otherwise, the one that begins later counts.
func flatten(all []span) []byte {
	slices.SortStableFunc(all, func(a, b span) int { return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.bits, b.bits)) })
	out := []byte(magic)
	var open []span // those that the address is within, the narrowest last
	write := func(at netip.Addr, of bulwark.ASN) {
		key := at.As16()
		if last := len(out) - recordSize; last >= len(magic) && bytes.Equal(out[last:last+16], key[:]) {
			out = out[:last] // it would be about no address
		}
		if last := len(out) - recordSize; last >= len(magic) && binary.BigEndian.Uint32(out[last+16:]) == uint32(of) {
			return
		}
		out = binary.BigEndian.AppendUint32(append(out, key[:]...), uint32(of))
	}
	leave := func(before netip.Addr) { // what ends before an address
		for len(open) > 0 && (!before.IsValid() || open[len(open)-1].to.Less(before)) {
			ended := open[len(open)-1]
			open = open[:len(open)-1]
			for len(open) > 0 && !ended.to.Less(open[len(open)-1].to) {
				open = open[:len(open)-1] // it ended within this one, or with it
			}
			next := ended.to.Next()
			switch {
			case !next.IsValid(): // the last address that there is
			case len(open) > 0:
				write(next, open[len(open)-1].of)
			default:
				write(next, 0)
			}
		}
	}
	for _, s := range all {
		leave(s.from)
		write(s.from, s.of)
		open = append(open, s)
	}
	leave(netip.Addr{})
	return out
}
