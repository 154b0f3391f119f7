//go:build bench

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// benchEdge measures the processor time that the edge takes for a request, beside nginx with a certificate of the same
// kind and the same program behind it, and how long a change of the table takes when there are many hosts.
func benchEdge(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-edge"
	if err := p.image(app, "1"); err != nil {
		return err
	}
	others, err := newPeers(b.work, app+"."+domain)
	if err != nil {
		return err
	}
	defer others.end()
	n, err := others.nginx("nginx", 1024, "", "")
	if err != nil {
		return err
	}
	edge, err := b.on.pid("edge")
	if err != nil {
		return err
	}
	dial, err := b.on.pid("dial")
	if err != nil {
		return err
	}
	const requests = 20_000
	for _, kind := range []struct {
		name string
		args []string
		most float64
	}{{"h1", []string{"--h1", "-c", "16"}, 3.0}, {"h2", []string{"-c", "4", "-m", "8"}, 4.1}} {
		var cpu, rps [2][]float64
		for round := range *benchRuns + 1 {
			for i, at := range []struct {
				port string
				pids []int
			}{{b.on.ports["HTTPS"], []int{edge, dial}}, {n.port, n.pids}} {
				before, err := processorTime(at.pids)
				if err != nil {
					return err
				}
				speed, err := h2load(app+"."+domain, at.port, requests, kind.args...)
				if err != nil {
					return err
				}
				after, err := processorTime(at.pids)
				if err != nil {
					return err
				}
				if round > 0 { // the first warms up
					cpu[i] = append(cpu[i], float64(after-before)/float64(time.Microsecond)/requests)
					rps[i] = append(rps[i], speed)
				}
			}
		}
		how := fmt.Sprintf("user and system time of the processes (this machine counts no instructions), `h2load %s`, %d requests for 1 KiB, TLS 1.3, by turns", strings.Join(kind.args, " "), requests)
		b.add(result{Name: "processor time a request, HTTPS " + kind.name, Unit: "µs", Ours: digested(cpu[0]...), Peer: digested(cpu[1]...), Whom: "nginx", How: how}, &goal{most: kind.most, ratio: true})
		b.add(result{Name: "requests a second, HTTPS " + kind.name, Unit: "1/s", Ours: digested(rps[0]...), Peer: digested(rps[1]...), Whom: "nginx", How: "the same runs; the load shares the processors"}, nil)
	}
	if err := b.on.frozen("server", func() error { return benchTable(b, bulwark.HostName(app+"."+domain)) }); err != nil {
		return err
	}
	_, err = p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app)
	return err
}

// benchTable changes the table of the edge that serves, with 10,000 hosts in it. The server stands still meanwhile; it
// puts its own table back afterwards.
func benchTable(b *bench, host bulwark.HostName) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	control := edgecontrol.New(b.on.inst.Socket(install.EdgeControl))
	table, err := control.Table(ctx)
	if err != nil {
		return err
	}
	id, ok := table.Routes[host]
	if !ok {
		return fmt.Errorf("the edge does not know %s", host)
	}
	const hosts = 10_000
	var other bulwark.AppID
	for i := range hosts {
		if i%10 == 0 {
			other = bulwark.NewAppID()
			table.Apps[other] = bulwark.Upstream{Name: bulwark.AppName("other-" + strconv.Itoa(i)), Instances: []bulwark.InstanceID{bulwark.NewInstanceID()}}
		}
		table.Routes[bulwark.HostName("host-"+strconv.Itoa(i)+".example.org")] = other
	}
	put, err := times(*benchRuns, func() error {
		table.Generation++
		return control.PutTable(ctx, table)
	})
	if err != nil {
		return err
	}
	c, err := b.on.client(false)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	var patch []float64
	for range *benchRuns * 4 {
		for _, set := range []bool{false, true} { // the app's route goes, and comes back
			p := bulwark.TablePatch{BaseGeneration: table.Generation, Generation: table.Generation + 1, DeleteRoutes: []bulwark.HostName{host}}
			want := http.StatusNotFound
			if set {
				p.DeleteRoutes, p.SetRoutes, want = nil, map[bulwark.HostName]bulwark.AppID{host: id}, http.StatusOK
			}
			began := time.Now()
			if err := control.PatchTable(ctx, p); err != nil {
				return err
			}
			patch = append(patch, ms(time.Since(began)))
			table.Generation++
			res, err := c.Get(fmt.Sprintf("https://%s:%s/", host, b.on.ports["HTTPS"]))
			if err != nil {
				return err
			}
			res.Body.Close()
			if res.StatusCode != want {
				return fmt.Errorf("after a change of the table the answer is %s, not %d", res.Status, want)
			}
		}
	}
	b.add(result{Name: "one route changed among 10,000 hosts", Unit: "ms", Ours: digested(patch...), How: "PATCH of the running edge's table over its socket; the next request is served by the new one"}, &goal{most: 10})
	b.add(result{Name: "the whole table of 10,000 hosts put anew", Unit: "ms", Ours: digested(put...), How: "PUT, as the server does"}, nil)
	return nil
}
