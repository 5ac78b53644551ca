package natsipc

// Streams returns how many streams of the client are not over.
func (c *Client) Streams() int {
	port, err := c.flows()
	if err != nil {
		return 0
	}
	return port.Len()
}
