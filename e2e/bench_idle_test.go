//go:build bench

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// benchIdle measures the memory that connections take which do nothing: each has had one answer.
func benchIdle(b *bench) error {
	const app, connections = "bench-idle", 10_000
	// Both ends are on this machine, each under a limit of open files that not everybody can raise; the edge has room for 16,384.
	p, others, err := b.served(app)
	if err != nil {
		return err
	}
	defer others.end()
	if _, err := p.run("", "bulwark", "shield", app, "waf", "off"); err != nil { // the rules are no part of what connections take
		return err
	}
	for _, h2 := range []bool{false, true} {
		proto := map[bool]string{false: "h1", true: "h2"}[h2]
		// A new one of each: what one gave back of the other's connections does not count for it.
		nginx, err := others.nginx("nginx-idle-"+proto, 16384, "", "")
		if err != nil {
			return err
		}
		us, err := b.ours()
		if err != nil {
			return err
		}
		var before, after [2]float64
		for i, at := range []*peer{us, nginx} {
			if before[i], after[i], err = idle(at, app+"."+domain, h2, connections); err != nil {
				return fmt.Errorf("%s, %s: %w", at.name, proto, err)
			}
		}
		how := fmt.Sprintf("Pss of the processes (ours: edge and dial) 15 s after the last of %d TLS connections had its one answer, from 16 loopback addresses", connections)
		b.add(result{Name: fmt.Sprintf("memory with %d idle connections, %s", connections, proto), Unit: "MB", Ours: digested(after[0]), Peer: digested(after[1]), Whom: "nginx", How: how}, &goal{most: 300})
		b.add(result{Name: fmt.Sprintf("memory with %d idle connections, %s: the goal behind the goal", connections, proto), Unit: "MB", Ours: digested(after[0]), How: "the same"}, &goal{most: 200})
		b.add(result{Name: "of it for each connection, " + proto, Unit: "KB", Ours: digested((after[0] - before[0]) * 1000 / connections), Peer: digested((after[1] - before[1]) * 1000 / connections), Whom: "nginx", How: "the same, without what there was before"}, nil)
		if err := b.on.restart("edge"); err != nil {
			return err
		}
	}
	return p.gone(app)
}

// idle opens connections that stay, and returns what the memory was before and is then.
func idle(at *peer, host string, h2 bool, connections int) (before, after float64, err error) {
	if before, err = pss(at.pids...); err != nil {
		return 0, 0, err
	}
	open, failed := make([]*tls.Conn, connections), make([]error, 16)
	defer func() {
		for _, c := range open {
			if c != nil {
				// Reset: what a usual end leaves behind keeps its port from others for a minute.
				_ = c.NetConn().(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}
	}()
	var wg sync.WaitGroup
	for w := range failed {
		wg.Go(func() {
			for i := w; i < connections && failed[w] == nil; i += len(failed) {
				open[i], failed[w] = answered(net.IPv4(127, 0, 1, byte(1+w)), host, at.port, h2)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return 0, 0, err
	}
	time.Sleep(15 * time.Second)
	if after, err = pss(at.pids...); err != nil {
		return 0, 0, err
	}
	// That they still are there: one that was closed meanwhile would have been free.
	for i := 0; i < connections; i += connections / 100 {
		if err := open[i].SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return 0, 0, err
		}
		var one [1]byte
		_, err := open[i].Read(one[:])
		if timeout, ok := errors.AsType[net.Error](err); err != nil && (!ok || !timeout.Timeout()) {
			return 0, 0, fmt.Errorf("connection %d of %d did not stay: %w", i, connections, err)
		}
	}
	return before, after, nil
}

// answered makes a connection and one request on it.
func answered(from net.IP, host, port string, h2 bool) (*tls.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 30 * time.Second}
	raw, err := d.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	c := tls.Client(raw, config)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if h2 {
		err = askOverH2(c, host+":"+port)
	} else if _, err = fmt.Fprintf(c, "GET /kilobyte HTTP/1.1\r\nHost: %s:%s\r\n\r\n", host, port); err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			_, err = discard(res)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// askOverH2 makes the first request of a connection, and waits for the end of its answer.
func askOverH2(c net.Conn, authority string) error {
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", authority}, {":path", "/kilobyte"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	fr := http2.NewFramer(c, c)
	_, err := io.WriteString(c, http2.ClientPreface)
	err = errors.Join(err, fr.WriteSettings(), fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}))
	for err == nil {
		var f http2.Frame
		if f, err = fr.ReadFrame(); err != nil {
			break
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = fr.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return nil
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			err = fmt.Errorf("the request was refused: %v", f)
		}
	}
	return err
}

// restart has the supervisor start a process anew.
func (i *installation) restart(process string) error {
	old, err := i.pid(process)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := supervise.NewClient(i.inst).Restart(ctx, process); err != nil {
		return err
	}
	return poll(30*time.Second, func() error {
		now, err := i.pid(process)
		if err == nil && now == old {
			err = fmt.Errorf("%s is still the same process", process)
		}
		return err
	})
}

// benchHosts measures what a table of many hosts takes of memory, whether requests take more with it, and a change of it. The server stands still meanwhile; it puts its own
// table back afterwards.
func benchHosts(b *bench) error {
	const app = "bench-hosts"
	p, err := b.person()
	if err != nil {
		return err
	}
	if err := p.image(app, "1"); err != nil {
		return err
	}
	if _, err := p.run("", "bulwark", "shield", app, "waf", "off"); err != nil {
		return err
	}
	host := bulwark.HostName(app + "." + domain)
	if err := b.on.frozen("server", func() error { return errors.Join(b.manyHosts(host), benchTable(b, host)) }); err != nil {
		return err
	}
	return p.gone(app)
}

func (b *bench) manyHosts(host bulwark.HostName) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	control := edgecontrol.New(b.on.inst.Socket(install.EdgeControl))
	own, err := control.Table(ctx)
	if err != nil {
		return err
	}
	us, err := b.ours()
	if err != nil {
		return err
	}
	const requests = 10_000
	c := newCounter(b.work)
	generation := own.Generation
	sizes := []int{0, 10_000, 100_000}
	memory, spent := make([]float64, len(sizes)), make([][]float64, len(sizes))
	for round := range *benchRuns + 1 {
		for i, n := range sizes {
			generation++
			table := withHosts(own, n)
			table.Generation = generation
			if err := control.PutTable(ctx, table); err != nil {
				return err
			}
			if round == 0 { // before larger ones were there
				time.Sleep(20 * time.Second) // until what was read is given back
				if memory[i], err = pss(us.pids[0]); err != nil {
					return err
				}
			}
			// What the table itself left to be collected is no part of a request: some are made before.
			if _, err := h2load(string(host), us.port, requests, "--h1", "-c", "16"); err != nil {
				return err
			}
			cost, err := c.load(us, string(host), requests, "--h1", "-c", "16")
			if err != nil {
				return err
			}
			if round > 0 {
				spent[i] = append(spent[i], cost)
			}
		}
	}
	generation++
	own.Generation = generation
	if err := control.PutTable(ctx, own); err != nil {
		return err
	}
	b.add(result{Name: "memory of 100,000 hosts", Unit: "MB", Ours: digested(memory[2] - memory[0]), How: "Pss of the edge with them, of 10,000 apps, 20 s after they were put, without what it was before"}, &goal{most: 100})
	b.add(result{Name: "memory of 10,000 hosts", Unit: "MB", Ours: digested(memory[1] - memory[0]), How: "the same"}, nil)
	how := fmt.Sprintf("%s, `h2load --h1 -c 16`, %d requests, by turns", c.how, requests)
	for i, n := range sizes[1:] {
		b.add(result{Name: fmt.Sprintf("a GET with %d hosts in the table", n), Unit: c.unit, Ours: digested(spent[i+1]...), Peer: digested(spent[0]...), Whom: "with one", How: how},
			&goal{most: 1.1, ratio: true})
	}
	return nil
}

// withHosts is a table with so many hosts more, ten for each app.
func withHosts(t bulwark.Table, n int) bulwark.Table {
	out := bulwark.Table{Generation: t.Generation, Routes: map[bulwark.HostName]bulwark.AppID{}, Apps: map[bulwark.AppID]bulwark.Upstream{}}
	for h, id := range t.Routes {
		out.Routes[h] = id
	}
	for id, up := range t.Apps {
		out.Apps[id] = up
	}
	var other bulwark.AppID
	for i := range n {
		if i%10 == 0 {
			other = bulwark.NewAppID()
			out.Apps[other] = bulwark.Upstream{Name: bulwark.AppName("other-" + strconv.Itoa(i)), Instances: []bulwark.InstanceID{bulwark.NewInstanceID()}}
		}
		out.Routes[bulwark.HostName("host-"+strconv.Itoa(i)+".example.org")] = other
	}
	return out
}
