// A go-libp2p node obeying the line protocol of lines.mjs: the test streams, ping, and relay v2 in each role.
//
// The first argument is JSON: {"relay": true} serves as a relay, with go-libp2p's default limits; {"free": true}
// without limits on circuits; {"kad": "server"} or "client" speaks /p2pe/kad/1.0.0.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	sink   = protocol.ID("/test/sink/1.0.0")
	source = protocol.ID("/test/source/1.0.0")
	echo   = protocol.ID("/test/echo/1.0.0")
	reset  = protocol.ID("/test/reset/1.0.0")
	piece  = 65537
)

var out sync.Mutex

func tell(what map[string]any) {
	out.Lock()
	defer out.Unlock()
	line, _ := json.Marshal(what)
	os.Stdout.Write(append(line, '\n'))
}

func block() []byte {
	made := make([]byte, piece)
	for i := range made {
		made[i] = byte(i*i + i>>7)
	}
	return made
}

// Writes the first size bytes of the test pattern.
func writePattern(to io.Writer, size int) error {
	whole := block()
	for left := size; left > 0; left -= piece {
		if _, err := to.Write(whole[:min(left, piece)]); err != nil {
			return err
		}
	}
	return nil
}

func digest(from io.Reader) (map[string]any, error) {
	hash := sha256.New()
	count, err := io.Copy(hash, from)
	return map[string]any{"count": count, "sha256": hex.EncodeToString(hash.Sum(nil))}, err
}

func serve(h host.Host) {
	h.SetStreamHandler(sink, func(s network.Stream) {
		found, err := digest(s)
		if err != nil {
			s.Reset()
			return
		}
		answer, _ := json.Marshal(found)
		s.Write(answer)
		s.Close()
	})
	h.SetStreamHandler(source, func(s network.Stream) {
		asked, _ := io.ReadAll(s)
		size, _ := strconv.Atoi(string(asked))
		writePattern(s, size)
		s.Close()
	})
	h.SetStreamHandler(echo, func(s network.Stream) {
		io.Copy(s, s)
		s.Close()
	})
	h.SetStreamHandler(reset, func(s network.Stream) {
		s.Read(make([]byte, 1))
		s.Reset()
	})
}

type command struct {
	ID   int    `json:"id"`
	Do   string `json:"do"`
	To   string `json:"to"`
	Size int    `json:"size"`

	Key   string `json:"key"`
	Value string `json:"value"`
}

func open(ctx context.Context, h host.Host, to string, p protocol.ID) (network.Stream, error) {
	info, err := peer.AddrInfoFromString(to)
	if err != nil {
		return nil, err
	}
	ctx = network.WithAllowLimitedConn(ctx, "test")
	if err := h.Connect(ctx, *info); err != nil {
		return nil, err
	}
	return h.NewStream(ctx, info.ID, p)
}

func obey(h host.Host, c command) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch c.Do {
	case "sink":
		s, err := open(ctx, h, c.To, sink)
		if err != nil {
			return nil, err
		}
		if err := writePattern(s, c.Size); err != nil {
			return nil, err
		}
		s.CloseWrite()
		var found map[string]any
		err = json.NewDecoder(s).Decode(&found)
		return found, err
	case "source":
		s, err := open(ctx, h, c.To, source)
		if err != nil {
			return nil, err
		}
		fmt.Fprint(s, c.Size)
		s.CloseWrite()
		return digest(s)
	case "ping":
		info, err := peer.AddrInfoFromString(c.To)
		if err != nil {
			return nil, err
		}
		if err := h.Connect(ctx, *info); err != nil {
			return nil, err
		}
		result := <-ping.Ping(ctx, h, info.ID)
		return result.RTT.Seconds(), result.Error
	case "reserve":
		info, err := peer.AddrInfoFromString(c.To)
		if err != nil {
			return nil, err
		}
		made, err := client.Reserve(ctx, h, *info)
		if err != nil {
			return nil, err
		}
		return map[string]any{"voucher": made.Voucher != nil, "limit": made.LimitData}, nil
	case "connect":
		info, err := peer.AddrInfoFromString(c.To)
		if err != nil {
			return nil, err
		}
		return nil, h.Connect(ctx, *info)
	case "protocols":
		info, err := peer.AddrInfoFromString(c.To)
		if err != nil {
			return nil, err
		}
		if err := h.Connect(ctx, *info); err != nil {
			return nil, err
		}
		return h.Peerstore().GetProtocols(info.ID)
	}
	return obeyKad(ctx, c)
}

func main() {
	var options struct {
		Relay, Free bool
		Kad         string
	}
	if len(os.Args) > 1 {
		json.Unmarshal([]byte(os.Args[1]), &options)
	}
	h, err := libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.EnableRelay(),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	)
	if err != nil {
		panic(err)
	}
	serve(h)
	if options.Relay {
		var limits []relay.Option
		if options.Free {
			limits = append(limits, relay.WithInfiniteLimits())
		}
		if _, err := relay.New(h, limits...); err != nil {
			panic(err)
		}
	}
	if options.Kad != "" {
		if err := serveKad(h, options.Kad); err != nil {
			panic(err)
		}
	}
	addresses := []string{}
	for _, each := range h.Addrs() {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", each, h.ID()))
	}
	tell(map[string]any{"event": "ready", "peer": h.ID().String(), "addresses": addresses})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		json.Unmarshal(lines.Bytes(), &c)
		go func() {
			if ok, err := obey(h, c); err != nil {
				tell(map[string]any{"id": c.ID, "error": err.Error()})
			} else {
				tell(map[string]any{"id": c.ID, "ok": ok})
			}
		}()
	}
}
