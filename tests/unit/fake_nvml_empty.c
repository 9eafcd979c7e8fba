/* A library with nothing that a card's manager would have. */
int fake_nvml_nothing(void);
int fake_nvml_nothing(void)
{
    return 0;
}
